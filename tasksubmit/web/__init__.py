"""The control API: what a running node can be asked and told, as JSON over HTTP on a Unix socket."""

from tasksubmit.web.site import control_site

__all__ = ["control_site"]
