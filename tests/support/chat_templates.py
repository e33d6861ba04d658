"""Chat templates in the manner of the families that models use, written for these tests."""

from __future__ import annotations

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "inst": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set system = '' %}"
        "{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}{{ '[INST] ' + (system if loop.first else '')"
        " + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "headers": (
        "{%- set ns = namespace(first=true) -%}\n"
        "{%- for message in messages %}\n"
        "    {%- set content = '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n'"
        " + message.content | trim + '<|eot_id|>' %}\n"
        "    {%- if ns.first %}{% set content = bos_token + content %}{% set ns.first = false %}"
        "{% endif %}\n"
        "    {{- content }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
        "{%- endif %}\n"
    ),
    "turns": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% set role = 'model' if message.role == 'assistant' else message.role %}"
        "{{ '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "tools": (
        "{%- if tools %}\n    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}\n"
        "    {%- for tool in tools %}\n        {{- '\\n' }}\n        {{- tool | tojson }}\n"
        "    {%- endfor %}\n    {{- '\\n</tools>\\nUse <tool_call></tool_call>.<|im_end|>\\n' }}\n"
        "{%- endif %}\n"
        "{%- for message in messages %}\n"
        "    {{- '<|im_start|>' + message.role + '\\n' }}\n"
        "    {%- if message.content %}{{- message.content }}{% endif %}\n"
        "    {%- for call in message.tool_calls or [] %}\n"
        "        {{- '\\n<tool_call>\\n{\"name\": \"' + call.function.name }}{{- '\", ' }}\n"
        "        {{- '\"arguments\": ' }}\n"
        "        {{- call.function.arguments | tojson }}\n        {{- '}\\n</tool_call>' }}\n"
        "    {%- endfor %}\n    {{- '<|im_end|>\\n' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n"
        "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
        "        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}\n"
    ),
    "begun": (
        "{{ bos_token }}{% for message in messages %}{% set text = message.content %}"
        "{% if '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
        "{{ '<|' + message.role + '|>' + text }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
    ),
    "loops": (
        "{% for message in messages %}{% if message.role == 'tool' %}{% continue %}{% endif %}"
        "{% if loop.index > 3 %}{% break %}{% endif %}"
        "{{ message.role | upper }}: {{ message.content }}\n{% endfor %}"
    ),
    "generation": (
        "{% for message in messages %}{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}"
        "{% else %}{{ message.role }}> {{ message.content }}\n{% endif %}{% endfor %}"
    ),
    "dict": (
        "{% set names = dict(user='Human', assistant='AI', system='Note', tool='Result') %}"
        "{% for message in messages %}{{ names[message.role] }}: {{ message.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}AI:{% endif %}"
    ),
    "json": (
        "{# content #}{{ messages | tojson(indent=2) }}"
        "{{ {'b': 1, 'a': '<é&>'} | tojson(sort_keys=true) }}"
    ),
    "macros": (
        "{% macro turn(role, text) %}[{{ role }}] {{ text }}\n{% endmacro %}"
        "{% for message in messages %}{{ turn(message['role'], message['content']) }}{% endfor %}"
        "{% if not add_generation_prompt %}{{ '(open)' if false }}{% endif %}"
    ),
    "filters": (
        "{% for message in messages if message.role != 'system' %}"
        "{{ loop.index }}. {{ message.content | replace('a', 'A') | trim | truncate(30) }}\n"
        "{% endfor %}{{ messages | map(attribute='role') | unique | join(',') }}"
    ),
    "today": "{{ strftime_now('%d %b %Y') }} {{ messages[-1]['content'] }}",
    "slices": (
        "{% set last = messages[-1] %}{% set rest = messages[:-1] %}"
        "{% if rest is iterable and rest %}{{ rest[0].content[:4] }}…{% endif %}"
        "{{ last.role ~ ': ' ~ last['content'] }}{% if add_generation_prompt %} ->{% endif %}"
    ),
}
