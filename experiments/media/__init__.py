"""Clips as files: videos that players take, frames without loss, animated GIF, sheets of frames."""

from experiments.media.clip import write_clip as write_clip
from experiments.media.clip_pictures import contact_sheet as contact_sheet
from experiments.media.clip_pictures import write_gif as write_gif
from experiments.media.frames import difference as difference
from experiments.media.frames import enlarge as enlarge
from experiments.media.frames import to_uint8 as to_uint8
from experiments.media.mp4 import NoEncoderError as NoEncoderError
from experiments.media.mp4 import frame_rate as frame_rate
from experiments.media.mp4 import write_mp4 as write_mp4
from experiments.media.video import Written as Written
from experiments.media.video import check_output as check_output
from experiments.media.video import read_frames as read_frames
from experiments.media.video import write_video as write_video
