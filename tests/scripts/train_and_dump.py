"""Train a tiny model with Trainer and save, on every rank, its parameters, optimizer state and logs.

train_and_dump.py DUMP_DIR RESUME_FROM|- DROPOUT TrainingArguments...
"""

import os
import sys
from pathlib import Path

import torch
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import gap_hf  # noqa: F401
from tests.sharding.leaving import leave


class Tokens(torch.utils.data.Dataset):
    """Counting sequences with noise: something to learn, the same on every rank."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        noise = torch.randint(0, 3, (256, 16), generator=generator)
        self.ids = (torch.arange(16) + torch.randint(0, 40, (256, 1), generator=generator) + noise) % 64

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def main() -> None:
    dump, resume, dropout = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(sys.argv[4:])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_dropout=dropout,
    )
    trainer = Trainer(model=LlamaForCausalLM(config), args=args, train_dataset=Tokens())
    trainer.train(resume_from_checkpoint=None if resume == "-" else resume)
    dump.mkdir(parents=True, exist_ok=True)
    result = {
        "world_size": args.world_size,
        "parameters": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "logs": trainer.state.log_history,
    }
    torch.save(result, dump / f"rank{os.environ.get('RANK', 0)}.pt")
    leave()


if __name__ == "__main__":
    main()
