"""RLKD in Hugging Face's Trainer: a transformer text classifier distilled into a smaller one.

python examples/huggingface_trainer.py [FOLDER]    # FOLDER takes the student, config and weights
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import rlkd

TOPICS, PART, WORDS = 4, 16, 16


class DistillationTrainer(Trainer):
    """A Trainer whose loss has a teacher in it, at temperatures that an agent sets."""

    loss_is_scaled_for_ga = False  # a mean over the batch, whatever gradients are accumulated

    def __init__(self, *args: Any, teacher: Any, agent: rlkd.TemperatureAgent, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher, self.agent = teacher.eval().to(self.args.device), agent.to(self.args.device)
        agent.share_update(self.args.gradient_accumulation_steps)  # the calls of one step

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss, and what the student gave where the Trainer wants that too."""
        outputs = model(**inputs)
        loss = outputs.loss
        if model.training:  # an evaluation needs no teacher, and teaches the agent nothing
            self.agent.start_epoch(int(self.state.epoch or 0) + 1)
            with torch.no_grad():
                teacher_logits = self.teacher(**inputs).logits
            temperature = self.agent(outputs.logits, teacher_logits, inputs["labels"])
            loss = 0.1 * loss + 0.9 * rlkd.losses.kd(outputs.logits, teacher_logits, temperature)
        return (loss, outputs) if return_outputs else loss


def texts(count: int) -> list[dict[str, Tensor]]:
    """Make texts of random words, half of them from their topic's part of the vocabulary."""
    topic = torch.randint(TOPICS, (count,))
    words = torch.randint(TOPICS * PART, (count, WORDS))
    on_topic = topic[:, None] * PART + words % PART
    words = torch.where(torch.rand(count, WORDS) < 0.5, on_topic, words)
    return [{"input_ids": w, "labels": t} for w, t in zip(words, topic, strict=True)]


def bert(width: int, layers: int) -> BertForSequenceClassification:
    """Make a BERT from its configuration: small, and with fresh weights."""
    config = BertConfig(vocab_size=TOPICS * PART, hidden_size=width, num_hidden_layers=layers)
    config.update({"num_attention_heads": 2, "intermediate_size": 2 * width, "num_labels": TOPICS})
    return BertForSequenceClassification(config)


def main(folder: str | Path = "student", *, epochs: int = 2) -> BertForSequenceClassification:
    """Distil two layers into one on made-up texts; save and return the one."""
    torch.manual_seed(0)
    train, test = texts(512), texts(256)
    some: Any = {"num_train_epochs": epochs, "learning_rate": 3e-3, "save_strategy": "no"}
    options = TrainingArguments(str(folder), **some)
    teacher, student = bert(width=64, layers=2), bert(width=32, layers=1)
    Trainer(teacher, options, train_dataset=train).train()
    agent = rlkd.TemperatureAgent(base_temperature=4.0, update_interval=4)
    along: Any = {"teacher": teacher, "agent": agent, "train_dataset": train}
    trainer: Any = DistillationTrainer(student, options, **along)
    trainer.train()
    right = trainer.predict(test).predictions.argmax(1) == [int(each["labels"]) for each in test]
    student.save_pretrained(folder)  # transformers alone: whoever loads it needs no rlkd
    print(f"student {100 * right.mean():.1f} %, {agent.updates} updates, saved to {folder}")
    return student


if __name__ == "__main__":
    main(*sys.argv[1:])
