// The Vercel AI SDK with its DeepSeek provider and with its OpenAI-compatible one: streamed thinking,
// a tool in the loop of an agent, usage.
//
//     npm install --prefix examples
//     tribody serve scripted
//     node examples/ai_sdk.mjs

import { createDeepSeek } from '@ai-sdk/deepseek';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const baseURL = `${process.env.TRIBODY_URL ?? 'http://127.0.0.1:8000'}/v1`;
const apiKey = process.env.TRIBODY_API_KEY ?? 'unused';

const getWeather = tool({
  description: 'The weather in a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});

async function show(model) {
  const sum = streamText({ model, prompt: '17 + 25' });
  let thinking = '';
  let answer = '';
  for await (const part of sum.fullStream) {
    if (part.type === 'reasoning-delta') thinking += part.text;
    if (part.type === 'text-delta') answer += part.text;
    if (part.type === 'error') throw part.error;
  }
  const usage = await sum.usage;
  console.log('thinking:', thinking);
  console.log('answer:', answer);
  console.log('usage:', usage.inputTokens, '+', usage.outputTokens, '=', usage.totalTokens);

  const agent = streamText({
    model,
    prompt: 'What is the weather in Paris?',
    tools: { get_weather: getWeather },
    stopWhen: stepCountIs(3),
  });
  for await (const part of agent.fullStream) {
    if (part.type === 'tool-call') console.log('call:', part.toolName, JSON.stringify(part.input));
    if (part.type === 'error') throw part.error;
  }
  console.log('answer:', await agent.text);
}

console.log('@ai-sdk/deepseek');
await show(createDeepSeek({ baseURL, apiKey })('deepseek-reasoner'));
console.log('@ai-sdk/openai-compatible');
await show(
  createOpenAICompatible({ name: 'tribody', baseURL, apiKey, includeUsage: true })('deepseek-reasoner'),
);
