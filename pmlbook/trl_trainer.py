"""MemFT in TRL's SFTTrainer, on its fused head (chapter: MemFT; paper Eq. 8).

    MemFTSFTTrainer(model, args=SFTConfig(…), train_dataset=data, peft_config=lora, method="sw")

TRL deprecates `compute_loss_func` and pays for it with a second forward pass. Its own loss comes
from a fused head that never builds the logits. That head gives for each token its log-probability
and whether it is the most probable one: all that OT needs, and with the second SW's anchor too.
"""

from trl import SFTTrainer

from pmlbook.memft import AnswerTokens, scored_positions
from pmlbook.trainers import WholeStep


class MemFTSFTTrainer(WholeStep, SFTTrainer):
    """TRL's SFTTrainer with the loss of Eq. 8, however a step is cut (see `WholeStep`)."""

    def answers(self, model, inputs):
        """From the fused head: no logits."""
        labels, positions = inputs["labels"], inputs.get("position_ids")
        outputs = model(**inputs, fused_lm_head=True)
        scored, sample = scored_positions(labels, positions)
        tokens = AnswerTokens(
            losses=-outputs.log_probs[scored],
            correct=outputs.is_top1[scored].bool(),
            sample=sample,
            targets=labels[:, 1:][scored],
        )
        mode = "train" if model.training else "eval"
        right = tokens.correct.float().mean().item() if len(tokens.correct) else 0.0
        self._metrics[mode]["mean_token_accuracy"].append(right)
        return tokens, outputs
