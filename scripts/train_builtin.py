"""Trains the built-in models from scratch on the CPU or a GPU.

    python scripts/train_builtin.py                            all stages, about two hours on two CPU cores
    python scripts/train_builtin.py --only STAGE --minutes N   one stage

The stages are, in order: text, vae, stills, clips, image, video, decoder, export. Each reads from the cache folder (see
scripts/training/common.py) what earlier stages wrote, so that any stage can run again alone. The stages image, video
and vae then continue from their saved weights. On a machine that has not trained before, `--only restore` fills the
cache from the models in the repository.
"""

import argparse
import importlib

import torch

DEFAULT_MINUTES = {"text": 6, "vae": 10, "stills": 0, "clips": 0, "image": 16, "video": 60, "decoder": 7, "export": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("restore", *DEFAULT_MINUTES), help="run one stage (default: all stages)")
    parser.add_argument("--minutes", type=float, help="minutes of work for the stage of --only")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for stage in [arguments.only] if arguments.only else DEFAULT_MINUTES:
        minutes = arguments.minutes if arguments.only and arguments.minutes else DEFAULT_MINUTES.get(stage, 0)
        importlib.import_module(f"training.{stage}").train(minutes, seed=arguments.seed)


if __name__ == "__main__":
    main()
