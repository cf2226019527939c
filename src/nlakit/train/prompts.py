"""The prompts of a new NLA. Short: the tokens after the slot are paid for every vector.

The verbalizer of a released model starts from one that follows instructions, and is told more.
"""

AV_TEMPLATE = "Activation: <concept>{injection_char}</concept> Please provide an explanation."
CHECKPOINT_AV_TEMPLATE = (
    "Between the tags below, the place of a word is taken by an activation: the state of a "
    "language model while it read one token of a text. Say what the model was thinking of there: "
    "two or three features, the most important first, the last about the token itself and what "
    "must come next. Answer within <explanation> tags. Activation: "
    "<concept>{injection_char}</concept> Please provide an explanation."
)
AR_TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"
