"""Boots an enclave image with its own kernel under QEMU: real Linux drivers, a simulated NSM.

`boot.Enclave` starts QEMU with two virtio devices that this process serves through vhost-user
(`endpoint`, `vhost_user`, `virtqueue`): the NSM (`nsm_device`) and vsock (`vsock_device`).
"""
