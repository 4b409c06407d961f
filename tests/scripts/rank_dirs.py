"""Train a little with every process writing into an output directory of its own: OUTPUT_DIR/rank0, OUTPUT_DIR/rank1."""

import dataclasses
import os

import torch
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from tests.sharding.leaving import leave


def main():
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
    args = dataclasses.replace(args, output_dir=os.path.join(args.output_dir, f"rank{os.environ.get('RANK', 0)}"))
    os.makedirs(args.output_dir, exist_ok=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    ids = torch.randint(0, 32, (64, 8))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = Trainer(model=LlamaForCausalLM(config), args=args, train_dataset=rows)
    trainer.train()
    trainer.state.save_to_json(os.path.join(args.output_dir, "state.json"))
    leave()


if __name__ == "__main__":
    main()
