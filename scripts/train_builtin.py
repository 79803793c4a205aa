"""Train the built-in models from nothing: python scripts/train_builtin.py --only STAGE --minutes N, stage by stage.

Stages in order: text, vae, stills, clips, image, video, decoder, export. Each reads what the earlier ones left in the
cache folder (see scripts/training/common.py), so any of them can be run again alone; image, video and vae then go on
from there. On a machine that has not trained before, `--only restore` fills the cache from the models that ship.
"""

import argparse
import importlib

import torch

DEFAULT_MINUTES = {"text": 6, "vae": 10, "stills": 0, "clips": 0, "image": 16, "video": 60, "decoder": 7, "export": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("restore", *DEFAULT_MINUTES), help="run one stage (default: all of them)")
    parser.add_argument("--minutes", type=float, help="time for the stage named by --only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for stage in [arguments.only] if arguments.only else DEFAULT_MINUTES:
        minutes = arguments.minutes if arguments.only and arguments.minutes else DEFAULT_MINUTES.get(stage, 0)
        importlib.import_module(f"training.{stage}").train(minutes, seed=arguments.seed)


if __name__ == "__main__":
    main()
