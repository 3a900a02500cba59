// How the TypeScript client is made: `make clients`.
import { defineConfig } from "@hey-api/openapi-ts";

export default defineConfig({
  input: process.env.CLIENT_DOCUMENT,
  output: { path: process.env.CLIENT_OUTPUT, entryFile: true },
  plugins: ["@hey-api/client-fetch", "@hey-api/typescript", "@hey-api/sdk"],
});
