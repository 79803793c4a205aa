#!/bin/bash
# Collects the wheels that a GPU machine without a network lacks, so that they can be copied there with the checkout.
#
#   scripts/carry_wheels.sh [FOLDER] [PYTHON]     default: .whl, 3.12
#
# There: python3 -m pip install --no-index --no-deps --target /tmp/site FOLDER/*.whl && export PYTHONPATH=/tmp/site:.
#
# torch, numpy, accelerate, safetensors, sentencepiece, protobuf, psutil, nvidia-ml-py, rich, httpx, jinja2, regex and
# click are expected there. imageio-ffmpeg (28 to 65 MiB) is left out: without it no clip is encoded; add it by name:
#   EXTRA="imageio-ffmpeg==0.6.0" scripts/carry_wheels.sh
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-.whl}
python=${2:-3.12}
limit_mib=60
platforms=()
for tag in manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done

rm -rf "$folder"
mkdir -p "$folder"
# shellcheck disable=SC2086  # EXTRA is a list of requirements
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version "$python" "${platforms[@]}" --dest "$folder" -r scripts/gpu_wheels.txt ${EXTRA:-}

size_mib=$(du -sm "$folder" | cut -f1)
echo "$(ls "$folder" | wc -l) wheels, $size_mib MiB in $folder"
((size_mib <= limit_mib)) || { echo "more than $limit_mib MiB: leave something out"; exit 1; }
