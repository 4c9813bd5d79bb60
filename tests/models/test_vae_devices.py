"""Without a mesh; with one, on_eight_devices/check_vae.py decodes."""

from models.vae_devices import vae_axes, vae_devices


def test_one_device_works_alone():
    assert vae_devices() == 1
    assert vae_axes() == ()
