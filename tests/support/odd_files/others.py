"""Files of other types, whatever they are called."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Iterator

from tests.support.odd_files.case import DAMAGED_CLIP, NO_PICTURES, NOT_TAKEN, Case, encoded, refused, sample

FTYP = b"\0\0\0\x18ftyp%s\0\0\0\0isom%s"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
XML_BOMB = b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaa">]><svg>&a;</svg>'
PLAYLIST = b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
PICTURE_BRANDS = (
    "heic",
    "heix",
    "hevc",
    "heim",
    "mif1",
    "msf1",
    "avif",
    "avis",
    "jxl ",
    "jp2 ",
    "crx ",
    "qt  ",
    "M4A ",
)


def others() -> Iterator[Case]:
    for fmt in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "AVIF", "PDF", "EPS"):
        yield refused(f"a {fmt} file", encoded(sample(), fmt), NOT_TAKEN)
    frames = [sample(), sample().rotate(180)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield refused("an animated GIF file", gif, NOT_TAKEN)
    for brand in PICTURE_BRANDS:
        head = FTYP % (brand.encode(), brand.encode())
        yield refused(f"a file of the brand {brand.strip()}", head + bytes(500), NOT_TAKEN)
    for brand in ("isom", "mp42", "avc1", "3gp4", "dash", "\0\0\0\0"):
        head = FTYP % (brand.encode(), brand.encode())
        yield refused(f"an mp4 head of {brand!r} and zeros", head + bytes(500), DAMAGED_CLIP, NO_PICTURES)
    texts = {
        "an SVG file": SVG,
        "an SVG file with an entity": XML_BOMB,
        "a web page": b"<!DOCTYPE html><script>alert(1)</script>",
        "a playlist": PLAYLIST,
        "a list for ffmpeg": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "a session description": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "JSON": json.dumps({"image": "x"}).encode(),
        "a data URL": b"data:image/png;base64," + base64.b64encode(encoded(sample(), "PNG")),
        "base64": base64.b64encode(encoded(sample(), "PNG")),
        "an address": b"http://169.254.169.254/latest/meta-data/",
        "a path": b"/etc/passwd",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "an X pixmap": b'/* XPM */ static char *x[] = {"1 1 1 1", "a c #fff", "a"};',
        "an ImageMagick script": b"push graphic-context\nviewbox 0 0 1 1\nfill 'url(https://x/)'\n",
        "a Python pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0",
    }
    for name, data in texts.items():
        yield refused(name, data, NOT_TAKEN)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("a.png", encoded(sample(), "PNG"))
    binary = {
        "nothing": b"",
        "one byte": b"\x89",
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
        "a program": b"\x7fELF" + bytes(200),
        "a zip": archive.getvalue(),
        "a png in gzip": gzip.compress(encoded(sample(), "PNG")),
        "a png after a space": b" " + encoded(sample(), "PNG"),
        "a png after a web page": b"<html>" + encoded(sample(), "PNG"),
        "a png with the line ends of text": encoded(sample(), "PNG").replace(b"\r\n", b"\n"),
        "half of png's signature": b"\x89PNG\r\n",
        "half of jpeg's signature": b"\xff\xd8",
        "a WAV file": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
        "an AVI file": b"RIFF\x24\0\0\0AVI LIST" + bytes(28),
        "an Ogg file": b"OggS" + bytes(100),
        "an MP3 file": b"ID3\x04" + bytes(100),
        "a FLAC file": b"fLaC" + bytes(100),
        "a Flash video": b"FLV\x01\x05" + bytes(100),
        "a transport stream": (b"\x47" + bytes(187)) * 5,
        "a Photoshop file": b"8BPS\0\x01" + bytes(100),
        "a JPEG XL stream": b"\xff\x0a" + bytes(100),
        "a Matroska head of no type": b"\x1a\x45\xdf\xa3" + bytes(100),
        "a Matroska file": b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska" + bytes(100),
        "a QOI file": b"qoif" + bytes(100),
        "a safetensors file": b"\x10\0\0\0\0\0\0\0{}" + bytes(100),
    }
    for name, data in binary.items():
        yield refused(name, data, NOT_TAKEN)
    yield refused(
        "a webm head and zeros", b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm" + bytes(500), DAMAGED_CLIP, NO_PICTURES
    )
