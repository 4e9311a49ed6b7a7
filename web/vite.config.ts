import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vitest/config'

// For `npm run dev`: PAGE_API is a controller's address. The browser's Host goes with a request, as its Origin is held against it.
const proxy = { target: process.env.PAGE_API ?? 'http://127.0.0.1:7646', ws: true }

// The policy that internal/serve/page has, for `npx vite preview`.
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

export default defineConfig({
  plugins: [svelte()],
  build: {
    outDir: process.env.PAGE_OUT ?? '../internal/serve/page/dist',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0, // the page's policy allows no data: but for images
    modulePreload: { polyfill: false },
  },
  resolve: process.env.VITEST ? { conditions: ['browser'] } : {},
  test: { include: ['test/*.test.ts'], setupFiles: ['test/setup.ts'] },
  server: { proxy: { '/v1': proxy, '/openapi.json': proxy } },
  preview: { headers: { 'Content-Security-Policy': policy }, proxy: { '/v1': proxy, '/openapi.json': proxy } },
})
