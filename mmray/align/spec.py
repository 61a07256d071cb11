"""A run's options for alignment, and policies for a modality that cannot be aligned."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: require: the record is rejected; mask: it is predicted without this modality; skip: it is used as it is.
Policy = Literal["require", "mask", "skip"]


class AlignSpec(BaseModel):
    """How the audio and the text of a record are cut to the time of its image.

    The image is the reference and never moved, so it has no policy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The window around the image's time, in seconds. YAMNet hears patches of 0.975 s, each 0.48 s.
    before_s: float = Field(1.0, ge=0, le=600)
    after_s: float = Field(1.0, ge=0, le=600)
    # overlap: the caption with the largest overlap with the window; nearest: nearest to the image's time
    captions: Literal["overlap", "nearest"] = "overlap"
    # Largest remaining offset, including the error of the times. The default is slightly more than the 185 ms
    # of late sound that viewers accept (ITU-R BT.1359-1).
    tolerance_s: float = Field(0.2, ge=0, le=600)
    audio: Policy = "require"
    text: Policy = "require"

    @model_validator(mode="after")
    def _some_window(self) -> AlignSpec:
        if not self.before_s + self.after_s:
            raise ValueError("before_s and after_s are both 0, so the window would be empty")
        return self
