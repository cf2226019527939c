"""Chat templates of the kinds that are in use, in words of our own."""

from __future__ import annotations

# A header and a footer around each message; arguments as an object.
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Thoughts before the last question are dropped; later answers get a block of thoughts, maybe empty.
THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% set words = m.content or '' %}"
    "{% set thought = m.reasoning_content or '' %}"
    "{% if m.role == 'assistant' and '</think>' in words %}"
    "{% set thought = words.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ words }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
# Roles alternate, the system line stands inside the first question, contents are trimmed.
FOLDING = (
    "[BOS]{% set first = '' %}{% set rest = messages %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content | trim + '\n\n' %}{% set rest = messages[1:] %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if loop.first %}{{ first }}{% endif %}{{ m.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# The system line moves into the last question.
MOVING = (
    "{% set line = '' %}{% set rest = messages %}{% if messages[0].role == 'system' %}"
    "{% set line = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}[INST] {% if loop.last %}{{ line }}{% endif %}"
    "{{ m.content }}[/INST]{% else %} {{ m.content }}[END]{% endif %}{% endfor %}"
)
# No conversation without a question; contents in parts; arguments item by item.
STRICT = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ raise_exception('no user query') }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content or [] %}{% if p.type == 'text' %}{{ p.text }}"
    "{% else %}<{{ p.type }}>{% endif %}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}<call={{ c.function.name }}>"
    "{% for name, value in c.function.arguments | items %}{{ name }}: {{ value }};{% endfor %}"
    "</call>{% endfor %}</{{ m.role }}>\n{% endfor %}"
)
# Arguments are text.
JSON_TEXT = (
    "{% for m in messages %}{{ m.role + ': ' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + '(' + c.function.arguments + ')' }}"
    "{% endfor %}\n{% endfor %}"
)
# Results of tools that follow one another are one turn, and what ends it stands behind the last.
GROUPING = (
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}<turn>{% endif %}"
    "<result>{{ m.content }}</result>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<end of turn>{% endif %}"
    "{% else %}<turn>{{ m.role }}: {{ m.content }}<end of turn>{% endif %}{% endfor %}"
)
