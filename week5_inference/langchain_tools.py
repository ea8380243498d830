"""The tool loop with langchain-core: a local chat model, StructuredTools made from ours, and a loop over messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool, ToolException
from pydantic import StrictBool, StrictFloat, StrictInt, StrictStr, create_model

from week5_inference.solutions.prompting import Message, Tool

TYPES = {"string": StrictStr, "number": StrictInt | StrictFloat, "boolean": StrictBool}
ROLES = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
NAMES = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool"}


def as_dicts(messages: Sequence[BaseMessage]) -> list[Message]:
    """LangChain's messages as this lesson writes them."""
    return [{"role": NAMES[message.type], "content": message.content} for message in messages]


class LocalChatModel(BaseChatModel):
    """Any `model_step` as a chat model of LangChain: its calls are put where LangChain's models have them."""

    step: Callable[[list[Message]], str]

    @property
    def _llm_type(self) -> str:
        return "local"

    def _generate(self, messages: list[BaseMessage], stop=None, run_manager=None, **options: Any) -> ChatResult:
        reply = self.step(as_dicts(messages))
        calls, invalid = [], []
        found = re.search(r"<tool_call>(.*?)(?:</tool_call>|$)", reply, flags=re.DOTALL)
        if found:
            number = f"call_{len(messages)}"  # LangChain pairs each result with its call by such a number
            try:
                call = json.loads(found[1])
                calls = [{"name": call["name"], "args": call["arguments"], "id": number}]
            except (ValueError, TypeError, KeyError) as error:
                invalid = [{"name": None, "args": found[1], "id": number, "error": str(error)}]
        message = AIMessage(content=reply, tool_calls=calls, invalid_tool_calls=invalid)
        return ChatResult(generations=[ChatGeneration(message=message)])


def structured(tool: Tool) -> StructuredTool:
    """One of our tools as LangChain's; its errors become messages instead of exceptions."""

    def function(**arguments: Any) -> str:
        try:
            return str(tool.function(**arguments))
        except Exception as error:  # LangChain hands only a ToolException back to the model
            raise ToolException(f"error: {error}") from error

    schema = create_model(
        f"{tool.name}_arguments", **{key: (TYPES[kind], ...) for key, kind in tool.parameters.items()}
    )
    return StructuredTool.from_function(
        function,
        name=tool.name,
        description=tool.description,
        args_schema=schema,
        handle_tool_error=True,
        handle_validation_error=lambda error: f"error: {error.errors()[0]['msg']} ({error.errors()[0]['loc'][0]})",
    )


def run_langchain(
    model: BaseChatModel, tools: Sequence[StructuredTool], messages: Sequence[Message], max_steps: int = 5
) -> list[BaseMessage]:
    """The loop of `run_tools` with LangChain's parts. LangGraph and `langchain`'s agents hold the same loop."""
    by_name = {tool.name: tool for tool in tools}
    history: list[BaseMessage] = [ROLES[message["role"]](message["content"]) for message in messages]
    for _ in range(max_steps):
        reply = model.invoke(history)
        history.append(reply)
        if not reply.tool_calls and not reply.invalid_tool_calls:
            return history
        for call in reply.tool_calls:
            if call["name"] in by_name:
                history.append(by_name[call["name"]].invoke(call))  # a ToolMessage
            else:
                history.append(ToolMessage(f"error: there is no tool {call['name']!r}", tool_call_id=call["id"]))
        for call in reply.invalid_tool_calls:
            history.append(ToolMessage(f"error: no valid JSON: {call['error']}", tool_call_id=call["id"]))
    raise RuntimeError(f"no answer after {max_steps} steps")
