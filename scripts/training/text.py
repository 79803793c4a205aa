"""Text stage: trains a small tokenizer, and a T5 encoder that recognizes the attributes of a caption.

The encoder is trained as a classifier: one linear head per attribute must read its value (or "none") both from the mean
of the caption's token embeddings and from any single one of them. Every token then carries all that a denoiser needs to
know, which makes conditioning easy for a network this small. Half of the batches hide the padding with the attention
mask (as PixArt does), half leave it visible (as CogVideoX does).
"""

import numpy as np
import torch
from scenes import attributes, captions
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from .common import MAX_TOKENS, Progress, cache_dir, device, mixed_precision

VOCABULARY = 1500


def samples(rng: np.random.Generator, count: int) -> list[tuple[str, dict[str, str]]]:
    """Returns captions with the attributes they name: of scenes, of shapes, and some that name none."""
    result = []
    for _ in range(count):
        if rng.random() < 0.08:
            result.append((captions.filler(rng), {}))
        else:
            result.append(captions.caption(attributes.random_drawing(rng, video=rng.random() < 0.6), rng))
    return result


def make_tokenizer(rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """Trains a lower-case BPE tokenizer over letters and digits. It drops all other characters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[^a-z0-9]+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789"),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for text, _ in samples(rng, 30_000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        model_max_length=MAX_TOKENS,
        padding_side="right",
    )


def make_encoder() -> T5EncoderModel:
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=128,
        d_kv=32,
        num_heads=4,
        d_ff=256,
        num_layers=3,
        dropout_rate=0.05,
        feed_forward_proj="gelu",
        relative_attention_num_buckets=16,
        relative_attention_max_distance=MAX_TOKENS,
        pad_token_id=0,
        eos_token_id=1,
    )
    encoder = T5EncoderModel(config)
    # Initialize the heads to attend to neighboring words. With the usual initialization the encoder stays a bag of
    # words for too long: "red circle on blue" equals "blue circle on red". Bucket d is d words back, 8 + d is d ahead.
    with torch.no_grad():
        bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias[1, 0] += 4.0
        bias[9, 1] += 4.0
        bias[1:4, 2] += 3.0
    return encoder


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids and attention mask, each (batch, MAX_TOKENS), padded as the pipelines do."""
    batch = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def _targets(batch: list[tuple[str, dict[str, str]]]) -> dict[str, torch.Tensor]:
    targets = {}
    for name, values in attributes.ATTRIBUTES.items():
        index = {value: i + 1 for i, value in enumerate(values)}
        targets[name] = torch.tensor([index.get(named.get(name, ""), 0) for _, named in batch])
    return targets


def train(minutes: float, seed: int = 0, batch_size: int = 192) -> None:
    """Trains both and saves them to the cache folders `tokenizer` and `text_encoder`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = make_tokenizer(rng)
    encoder = make_encoder().to(device())
    heads = nn.ModuleDict({f"{n}_head": nn.Linear(128, len(v) + 1) for n, v in attributes.ATTRIBUTES.items()}).to(
        device()
    )
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    progress = Progress("text", minutes)
    while progress.fraction < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (progress.step + 1) / 100) * (1 - progress.fraction) + 1e-5
        batch = samples(rng, batch_size)
        ids, mask = (x.to(device()) for x in tokenize(tokenizer, [text for text, _ in batch]))
        if progress.step % 2:
            mask = torch.ones_like(mask)
        with mixed_precision():
            hidden = encoder(ids, attention_mask=mask)[0].float()
        weights = mask[..., None].float()
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        chosen = torch.multinomial(mask.float(), 1)[:, 0]
        single = hidden[torch.arange(len(batch)), chosen]
        loss, right = 0.0, []
        for name, target in _targets(batch).items():
            target = target.to(device())
            head = heads[f"{name}_head"]
            logits = head(pooled)
            loss = loss + nn.functional.cross_entropy(logits, target)
            loss = loss + nn.functional.cross_entropy(head(single), target)
            right.append(logits.argmax(-1) == target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.update(loss=loss.detach(), all_right=torch.stack(right).all(0).float().mean(), spread=hidden.std())
    tokenizer.save_pretrained(cache_dir() / "tokenizer")
    encoder.save_pretrained(cache_dir() / "text_encoder")
