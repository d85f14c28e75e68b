// The server under test, given by the environment (see `cargo xtask test`), and what all tests ask it.

export function needed(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; run \`cargo xtask test --only node\``);
  return value;
}

export const url = needed("YANTRA_URL").replace(/\/$/, "");
export const apiKey = needed("YANTRA_API_KEY");
export const model = needed("YANTRA_CHAT_MODEL");
export const embeddingModel = needed("YANTRA_EMBEDDING_MODEL");

export const messages = [{ role: "user", content: "What is the capital of Italy? Answer in one sentence." }];

// Arguments of the one tool there is.
export const weatherSchema = {
  type: "object",
  properties: { city: { enum: ["Rome", "Oslo"] }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
};
export const weather = { name: "weather", description: "Tells the weather of a city." };

// A schema that the small model fills in quickly.
export const capitalSchema = {
  type: "object",
  properties: {
    city: { type: "string", maxLength: 24 },
    inhabitants: { type: "integer", minimum: 0, maximum: 50000000 },
    is_coastal: { type: "boolean" },
  },
  required: ["city", "inhabitants", "is_coastal"],
  additionalProperties: false,
};
