"""The two prompts of a storyworld NLA. Short: every token before the slot is paid once a batch."""

AV_TEMPLATE = "Activation: <concept>{injection_char}</concept> Please provide an explanation."
AR_TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"
