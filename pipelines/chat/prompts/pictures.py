"""Reads the pictures of messages: files of clients become pixels, and a model's processor makes its inputs of them.

Worker threads, one at a time per processor. Torch is only used by the processor.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipelines.chat.prompts.picture_files import has_too_many_parts, has_too_many_scans
from pipelines.chat.prompts.special_tokens import special_tokens
from pipelines.chat_interface import MessageImage, PromptMedia, PromptRefused, PromptTooLong

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 36_000_000  # of one picture: 8K video and most cameras have less
MAX_PIXELS_TOGETHER = 72_000_000  # of one request; the processor's float32 takes 12 bytes for each
MAX_SIDE = 32_768  # pixels
NOT_READ = "{} must be a picture that can be read: PNG, JPEG, WebP or GIF, and not damaged."
TOO_LARGE = "{} must have at most {} pixels, and at most {} on a side."
TOO_MANY = "The pictures of one request may have {} pixels together. Send fewer or smaller ones."
PROCESSOR_REFUSES = "The model's processor does not take these pictures: one may be far too long for its width."
# What a processor makes of text. It is asked about the pictures alone, so the prompt's own is made of its tokens.
OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets")
KINDS_OF_TOKENS = ("mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True, slots=True)
class ReadPictures:
    inputs: dict[str, Any]  # numpy arrays by the names of the model's arguments
    texts: tuple[str, ...]  # for each picture, what stands in its place in the prompt
    kinds: str | None  # the argument that tells tokens of pictures from those of text; None: the model takes none


class PictureReader:
    """A vision-language model's processor, for pictures."""

    def __init__(self, processor: Any, tokenizer: Any) -> None:
        """tokenizer: the one that reads the prompts; it takes the place of the processor's own."""
        processor.tokenizer = tokenizer
        self._processor = processor
        self.token: str = processor.image_token  # stands for a picture in a rendered template
        ids = {*processor.image_token_ids, *processor.video_token_ids, *processor.audio_token_ids}
        ids.add(tokenizer.convert_tokens_to_ids(self.token))
        special_tokens(tokenizer, [token for token in ids if token in tokenizer.added_tokens_decoder])

    def read(self, images: Sequence[MessageImage], context_tokens: int | None) -> ReadPictures:
        """Raises `PromptRefused`, and `PromptTooLong` for pictures that alone fill the context."""
        pictures = decode(images)
        self._check_length([picture.size for picture in pictures], context_tokens)
        try:
            made = self._processor(
                images=[pictures],  # of one prompt: some processors treat several pictures otherwise than one
                text=[self.token * len(pictures)],
                return_tensors="pt",
                return_text_replacement_offsets=True,
            )
        except (ValueError, ZeroDivisionError) as error:
            raise PromptRefused(PROCESSOR_REFUSES, f"{type(error).__name__}: {error}") from error
        kinds = next((name for name in KINDS_OF_TOKENS if name in made), None)
        if not self._processor.return_mm_token_type_ids:
            kinds = None
        [replaced] = made["text_replacement_offsets"]
        inputs = {name: np.asarray(value) for name, value in made.items() if name not in OF_TEXT}
        return ReadPictures(inputs, tuple(each["replacement"] for each in replaced), kinds)

    def media(self, pictures: ReadPictures, tokens: Sequence[int]) -> PromptMedia:
        """tokens: of the whole prompt."""
        inputs = dict(pictures.inputs)
        if pictures.kinds is not None:
            inputs[pictures.kinds] = np.asarray(self._processor.create_mm_token_type_ids([list(tokens)]))
        return PromptMedia(inputs)

    def _check_length(self, sizes: Sequence[tuple[int, int]], context_tokens: int | None) -> None:
        """Refuses pictures by the tokens that they take, before the processor makes tensors of them: that of SmolVLM
        makes 50 MB of any small one.
        """
        names = self._processor.image_processor.model_input_names
        if context_tokens is None or "batch_num_images" in names:  # these are fewer together than one by one
            return
        try:
            counts = self._processor._get_num_multimodal_tokens(image_sizes=[(h, w) for w, h in sizes])
            n_tokens = sum(map(int, counts["num_image_tokens"]))
        except Exception:  # noqa: BLE001  # not all processors can tell; the prompt is checked again afterwards
            return
        if n_tokens >= context_tokens:
            raise PromptTooLong(n_tokens, context_tokens)


def decode(images: Sequence[MessageImage]) -> list[Image.Image]:
    """Returns the pictures in RGB, upright, what is transparent on white. Raises `PromptRefused`."""
    opened = [_open(image) for image in images]
    if sum(picture.width * picture.height for picture in opened) > MAX_PIXELS_TOGETHER:
        raise PromptRefused(TOO_MANY.format(f"{MAX_PIXELS_TOGETHER:,}"))
    return [_pixels(picture, image) for picture, image in zip(opened, images, strict=True)]


def _open(image: MessageImage) -> Image.Image:
    """Reads the header."""
    if has_too_many_parts(image.data):
        raise PromptRefused(NOT_READ.format(image.place), "too many parts")
    try:
        picture = Image.open(io.BytesIO(image.data), formats=FORMATS)
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise PromptRefused(NOT_READ.format(image.place), f"{type(error).__name__}: {error}") from error
    if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE:
        raise PromptRefused(TOO_LARGE.format(image.place, f"{MAX_PIXELS:,}", f"{MAX_SIDE:,}"))
    if has_too_many_scans(image.data, picture.width * picture.height):
        raise PromptRefused(NOT_READ.format(image.place), "too many scans")
    return picture


def _pixels(picture: Image.Image, image: MessageImage) -> Image.Image:
    side = image.longest_side
    try:
        picture.seek(0)
        picture.load()
        found = _rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # also the struct.error and SyntaxError of damaged files
        raise PromptRefused(NOT_READ.format(image.place), f"{type(error).__name__}: {error}") from error
    if side is not None and max(found.size) > side:
        found.thumbnail((side, side))
    return found


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of gray, which Pillow would cut off at 255
        gray = np.asarray(picture).clip(0, 65_535).astype(np.uint32)
        return Image.fromarray(((gray + 128) // 257).astype(np.uint8)).convert("RGB")  # to the nearest of 256
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")
