"""Volumes of users and projects, which gateway.store.named reads and writes."""

from gateway.errors import VolumeNotFound
from gateway.model.principal import Role
from gateway.model.volume import KeptVolume
from gateway.store.named import Shelf
from gateway.store.people import volumes

#: Everybody in a project may know of its volumes.
SHELF = Shelf(volumes, KeptVolume, Role.VIEWER, VolumeNotFound)
