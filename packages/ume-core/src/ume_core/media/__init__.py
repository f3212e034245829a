"""Opening images and videos as RGB pixels, within the limits and the policy.

Pixels equal those of the published recipe (PIL for images, alpha over white; PyAV's `to_rgb` for
video frames, as `torchvision.io.read_video` decoded them for qwen-vl-utils), except where a file
says that its pixels are to be seen otherwise and the recipe does not read it: then the eye is
followed (`pixels`, `streams`). Which frames of a clip are taken: `timeline`.
"""

from ume_core.media.clips import Frames, load_video
from ume_core.media.pictures import open_image, open_picture
from ume_core.media.pixels import Picture

__all__ = ["Frames", "Picture", "load_video", "open_image", "open_picture"]
