#!/bin/busybox sh
# The first program: what AWS's init does, for a kernel whose drivers are modules.
# It starts the command in /cmd with the environment in /env, in /rootfs.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
mount -o bind /dev /rootfs/dev
mount -t proc proc /rootfs/proc
mount -t sysfs sys /rootfs/sys
mount -t tmpfs tmp /rootfs/tmp
env -i $(cat /env) chroot /rootfs $(cat /cmd)
reboot -f
