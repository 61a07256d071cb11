"""Alignment of one record: which part of its audio and which caption belong to its image.

Uses the times in a record, before anything is decoded. A modality that cannot be aligned is named with the
reason; its policy decides whether the record or only the modality is rejected.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from mmray.align.spec import AlignSpec
from mmray.align.times import AudioTimes, ImageTimes, OutOfStep, TextTimes, parse_times
from mmray.schema import Modality


@dataclass(frozen=True)
class Region:
    """A part of a clip, in seconds from its first sample; it may extend beyond both ends."""

    start_s: float
    end_s: float
    tolerance_s: float  # so much of it may lie beyond either end, and becomes silence
    sample_rate: float | None = None  # true samples a second; None: as in the header


@dataclass
class Step:
    """The alignment of one record. Without arguments: everything is used as it is."""

    region: Region | None = None  # of the audio; None: from its beginning
    caption: str | None = None  # in place of the text member; None: the member itself
    out: dict[Modality, OutOfStep] = field(default_factory=dict)  # modalities that cannot be aligned, and why
    # The largest remaining offset of each aligned modality, in ms. Decoding of the audio adds the silence
    # that was inserted.
    error_ms: dict[Modality, float] = field(default_factory=dict)


class Aligner:
    """Finds the alignment of each record.

    Args:
        spec: window, choice, tolerance and policies.
        used: modalities that the run looks at.
        audio_max_s: maximum input of the model; a longer window is cut around the image's time, in the
            proportion of its two sides.
    """

    def __init__(self, spec: AlignSpec, used: Collection[Modality], audio_max_s: float) -> None:
        self._spec = spec
        policies: tuple[tuple[Modality, str], ...] = (("text", spec.text), ("audio", spec.audio))
        self._moved = [m for m, policy in policies if m in used and policy != "skip"]
        self._heard = min(1.0, audio_max_s / (spec.before_s + spec.after_s))

    def __call__(self, meta: bytes | None, present: Collection[Modality]) -> Step:
        """Align one record.

        Without a time of its image there is nothing to align to: then the only modality of a record is used
        as it is, and any other is not aligned. The image itself may be missing.

        Args:
            meta: the record's JSON member.
            present: modalities of the run for which it has a member.
        """
        step = Step()
        if not self._moved:
            return step
        try:
            times = parse_times(meta)
            if times.image is None:
                raise OutOfStep("times.image is missing: no time to align to", "no-image-time")
        except OutOfStep as e:
            if len(present) > 1:
                step.out = {m: e for m in self._moved if m in present}
            return step
        has_text = "text" in present or bool(times.text and times.text.captions)
        for modality in self._moved:
            try:
                if modality == "text" and has_text:
                    self._choose_caption(step, times.image, times.text)
                elif modality == "audio" and modality in present:
                    self._cut_audio(step, times.image, times.audio)
            except OutOfStep as e:
                step.out[modality] = e
        return step

    def _cut_audio(self, step: Step, image: ImageTimes, audio: AudioTimes | None) -> None:
        if audio is None:
            raise OutOfStep("times.audio is missing", "times-missing")
        error_ms = image.error_ms + audio.error_ms
        slack_s = self._slack_s(error_ms, "audio")
        moment = image.clock.to_common(image.at_s)
        window = (moment - self._spec.before_s * self._heard, moment + self._spec.after_s * self._heard)
        start, end = (audio.clock.from_common(edge) - audio.start_s for edge in window)
        step.region = Region(start, end, slack_s, audio.sample_rate)
        step.error_ms["audio"] = error_ms

    def _choose_caption(self, step: Step, image: ImageTimes, text: TextTimes | None) -> None:
        if text is None:
            raise OutOfStep("times.text is missing", "times-missing")
        if not text.spans:
            raise OutOfStep("times.text states no caption", "text-out-of-step")
        error_ms = image.error_ms + text.error_ms
        slack_s = self._slack_s(error_ms, "text")
        moment = image.clock.to_common(image.at_s)
        overlap = self._spec.captions == "overlap"
        first = moment - self._spec.before_s if overlap else moment
        last = moment + self._spec.after_s if overlap else moment

        def nearness(span: tuple[float, float]) -> tuple[float, float, float]:
            start, end = map(text.clock.to_common, span)
            # Overlap of the span and the window in seconds, or, if negative, the gap between them.
            common = min(end, last) - max(start, first)
            return common, -max(start - moment, moment - end, 0.0), -abs(start + end - 2 * moment)

        near = [nearness(span) for span in text.spans]
        best = max(range(len(near)), key=near.__getitem__)
        gap_s = max(0.0, -near[best][0])
        if gap_s > slack_s:
            raise OutOfStep(f"the nearest caption is {gap_s:.3f} s away", "text-out-of-step")
        if text.captions is not None:
            step.caption = text.captions[best][2]
        step.error_ms["text"] = error_ms + 1e3 * gap_s

    def _slack_s(self, error_ms: float, modality: Modality) -> float:
        """The tolerance minus the error of the times themselves."""
        slack_s = self._spec.tolerance_s - error_ms / 1e3
        if slack_s < 0:
            raise OutOfStep(
                f"the times of image and {modality} may be {error_ms:g} ms off, more than "
                f"align.tolerance_s={self._spec.tolerance_s:g}",
                "times-uncertain",
            )
        return slack_s
