"""What does not get into an image as it is, and what may keep it from working. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 3
"""Names listed of each kind."""

_SPARSE = 1 << 20
"""Bytes of holes from which on a file is worth a note."""

_UNIMPORTANT = ("security.selinux", "security.ima", "security.evm", "trusted.overlay.", "btrfs.")
"""Extended attributes that mean nothing in an enclave: whatever the system that made the root has
of its own. No kernel for enclaves enforces SELinux or IMA."""


_OF_A_LAYER = tuple(
    f"{space}.overlay.{name}"
    for space in ("trusted", "user")
    for name in ("opaque", "redirect", "metacopy", "whiteout")
)
"""Extended attributes by which overlayfs marks what is not whole in one layer alone (Linux,
``Documentation/filesystems/overlayfs.rst``)."""


def is_of_a_layer(attribute: str) -> bool:
    """Return whether a file with this extended attribute is not whole without other layers."""
    return attribute in _OF_A_LAYER


@dataclass(slots=True)
class Notes:
    """Collects differences by kind, so that a thousand files are one line.

    Attributes:
        user: who runs this program. Its own files are what unpacking without privilege leaves,
            so that they become root's needs no words.
    """

    user: int = 0
    _by_kind: dict[str, list[str]] = field(default_factory=dict)
    _plain: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Note something that stands alone."""
        self._plain.append(text)

    def owner(self, name: str, owner: tuple[int, int]) -> None:
        """Note a file that becomes root's."""
        if not self.user or owner[0] != self.user:
            self._add(
                "owner becomes root (--owners keep keeps it)", f"{name} ({owner[0]}:{owner[1]})"
            )

    def setuid(self, name: str, owner: tuple[int, int]) -> None:
        """Note a setuid or setgid file that becomes root's."""
        self._add(
            "setuid or setgid is dropped, or it would become root's (--owners keep keeps it)",
            f"{name} ({owner[0]}:{owner[1]})",
        )

    def attribute(self, name: str, attribute: str) -> None:
        """Note an extended attribute, which a ramdisk has no room for."""
        if attribute == "security.capability":
            self._add("file capabilities are dropped, a ramdisk has none", name)
        elif not attribute.startswith(_UNIMPORTANT):
            self._add(
                "extended attributes are dropped, a ramdisk has none", f"{name} ({attribute})"
            )

    def mounted(self, name: str) -> None:
        """Note a directory on which another file system is mounted."""
        self._add("mount point, empty in the image", name)

    def mounted_file(self, name: str) -> None:
        """Note a file on which another one is mounted."""
        self._add("mounted from elsewhere, taken as it is seen here", name)

    def sparse(self, name: str, size: int, allocated: int) -> None:
        """Note a file with holes, which a ramdisk writes out as zeros."""
        if size - allocated >= _SPARSE:
            self._add("sparse here, with all its zeros in the image", f"{name} ({size} bytes)")

    def take(self, other: Notes) -> None:
        """Take over what another one has collected."""
        for kind, names in other._by_kind.items():
            self._by_kind.setdefault(kind, []).extend(names)
        self._plain += other._plain

    def lines(self) -> list[str]:
        """Return everything, a line for each kind."""
        found = []
        for kind, names in self._by_kind.items():
            shown = ", ".join(names[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found.append(f"{kind}: {shown}{more}")
        return [*found, *self._plain]

    def _add(self, kind: str, name: str) -> None:
        self._by_kind.setdefault(kind, []).append(name)
