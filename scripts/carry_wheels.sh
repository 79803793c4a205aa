#!/bin/bash
# Collects the wheels that a GPU machine without a network lacks, so that they can be copied there with the checkout.
#
#   scripts/carry_wheels.sh [FOLDER] [PYTHON]     default: .whl, 3.12
#
# They lie uncompressed in one compressed archive, which is half as large as the wheels by themselves. There:
#
#   python3 -m tarfile -e FOLDER/wheels.tar.xz /tmp
#   python3 -m pip install --no-index --no-deps --target /tmp/site /tmp/wheels/*.whl && export PYTHONPATH=/tmp/site:.
#
# torch, numpy, accelerate, safetensors, sentencepiece, protobuf, psutil, nvidia-ml-py, rich, httpx, jinja2, regex and
# click are expected there. imageio-ffmpeg (28 to 65 MiB) is left out: without it no clip is encoded; add it by name:
#   EXTRA="imageio-ffmpeg==0.6.0" scripts/carry_wheels.sh
# and with EXTRA="torchao==0.17.0" (3 MiB) eight_bit.py compares with torchao's float8.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-.whl}
python=${2:-3.12}
limit_mib=60
platforms=()
for tag in manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done

download() {
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version "$python" --dest "$folder/wheels" "$@"
}

rm -rf "$folder"
mkdir -p "$folder/wheels"
sqlalchemy=$(grep '^sqlalchemy==' scripts/gpu_wheels.txt)
download --implementation py --abi none --platform any "$sqlalchemy" # in Python alone, which is 3 MiB smaller
# shellcheck disable=SC2086  # EXTRA is a list of requirements
download --implementation cp "${platforms[@]}" -r <(grep -v '^sqlalchemy==' scripts/gpu_wheels.txt) ${EXTRA:-}

python3 - "$folder" <<'END'
import pathlib, sys, tarfile, zipfile

folder = pathlib.Path(sys.argv[1])
for wheel in (folder / "wheels").iterdir():
    with zipfile.ZipFile(wheel) as packed:
        files = [(info, packed.read(info)) for info in packed.infolist()]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as stored:
        for info, content in files:
            stored.writestr(info.filename, content)
with tarfile.open(folder / "wheels.tar.xz", "w:xz", preset=9) as archive:
    archive.add(folder / "wheels", "wheels")
END
count=$(ls "$folder/wheels" | wc -l)
rm -r "$folder/wheels"
size_mib=$(du -sm "$folder" | cut -f1)
echo "$count wheels, $size_mib MiB in $folder/wheels.tar.xz"
((size_mib <= limit_mib)) || { echo "more than $limit_mib MiB: leave something out"; exit 1; }
