// Every feature of one vendor's model through the gateway, with OpenAI's Node client: prints {feature: "yes" | the error}.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const say = [{ role: "user", content: "hello" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "trip", parameters } }];

function expect(condition, what) {
  if (!condition) throw new Error(`not as expected: ${what}`);
}

const features = {
  plain: async () => {
    const answer = await client.chat.completions.create({ model, messages: say });
    expect(answer.choices[0].message.content.length > 5, "content");
    expect(answer.usage.completion_tokens > 0, "usage");
  },
  streamed: async () => {
    let text = "";
    const stream = await client.chat.completions.create({ model, messages: say, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    expect(text.length > 5, "content");
  },
  tools: async () => {
    const answer = await client.chat.completions.create({ model, messages: say, tools });
    expect(JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments).city === "simulated", "arguments");
  },
  "tools, streamed": async () => {
    const stream = client.chat.completions.stream({ model, messages: say, tools });
    const answer = await stream.finalChatCompletion();
    expect(JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments).city === "simulated", "arguments");
  },
  "/v1/responses": async () => {
    const answer = await client.responses.create({ model, input: "hello" });
    expect(answer.output_text.length > 5, "text");
  },
  "/v1/responses, streamed": async () => {
    let final;
    const stream = await client.responses.create({ model, input: "hello", stream: true });
    for await (const event of stream) final = event;
    expect(final.type === "response.completed", final.type);
  },
};

const found = {};
for (const [name, feature] of Object.entries(features)) {
  try {
    await feature();
    found[name] = "yes";
  } catch (error) {
    found[name] = `${error.status ?? ""} ${error.message}`;
  }
}
console.log(JSON.stringify(found));
