// One generation: the body of its request, and its stream of events into an Output.

import { events, post } from "./api.js";

/** Path and body of a chat request. */
export function chatRequest(messages, parameters) {
  const stream = { stream: true, stream_options: { include_usage: true } };
  return {
    path: "v1/chat/completions",
    body: { messages, ...stream, logprobs: true, draft_details: true, ...parameters },
  };
}

/** Path and body of a completion on TGI's native route. */
export function completionRequest(inputs, parameters) {
  return {
    path: "generate_stream",
    body: { inputs, parameters: { details: true, draft_details: true, ...parameters } },
  };
}

/** Send a request and add its tokens to `output` until it ends, or `signal` stops it. */
export async function run({ path, body }, output, signal) {
  const add = path === "generate_stream" ? addNativeEvent : addChatChunk;
  const response = await post(path, body, signal);
  for await (const event of events(response)) {
    add(event, output);
    output.showFacts();
  }
}

function addNativeEvent(event, output) {
  output.addToken(event.token.special ? "" : event.token.text, event.token);
  if (event.details) {
    output.reason = event.details.finish_reason;
    output.seed = event.details.seed;
  }
}

function addChatChunk(chunk, output) {
  if (chunk.usage) output.tokens = chunk.usage.completion_tokens;
  const statistics = chunk.metrics?.speculative_decoding;
  if (statistics) {
    output.drafted = statistics.num_draft_tokens;
    output.accepted = statistics.num_accepted_draft_tokens;
  }
  for (const choice of chunk.choices) addChoice(choice, output);
}

function addChoice({ delta, logprobs, finish_reason }, output) {
  const origin = logprobs?.content.at(-1);
  if (delta.reasoning_content) output.addReasoning(delta.reasoning_content, origin);
  else output.addToken(delta.content ?? "", origin);
  for (const part of delta.tool_calls ?? []) output.addToolCall(part);
  output.reason = finish_reason ?? output.reason;
}
