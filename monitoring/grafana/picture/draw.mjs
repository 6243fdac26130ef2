// node draw.mjs DASHBOARD RECORDED PNG: bundles the page, opens it in Debian's Chromium, and takes its picture.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, extname, join } from "node:path";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const [dashboard, recorded, picture] = process.argv.slice(2);
// There is no such host: this program answers every request.
const HERE = "http://dashboard.invalid/";
const ICONS = new URL("node_modules/@grafana/ui/dist/public/", import.meta.url).pathname;
const FONTS = "/usr/share/fonts/opentype/inter";
const TYPES = { ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".svg": "image/svg+xml", ".html": "text/html" };
const PAGE = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><div id="root"></div><script src="page.js"></script>';

// In a .mjs file, esbuild imports the default export of a CommonJS module as Node does; Grafana's modules expect the other way.
const grafana = {
    name: "grafana",
    setup(bundler) {
        bundler.onResolve({ filter: /^@grafana\/|\.mjs$/ }, async ({ path, pluginData, ...from }) => {
            if (pluginData === "asked") return undefined;
            const found = await bundler.resolve(path, { ...from, namespace: "file", pluginData: "asked" });
            return found.path.includes("/@grafana/") ? { path: `${found.path}.js`, namespace: "grafana" } : found;
        });
        bundler.onLoad({ filter: /.*/, namespace: "grafana" }, async ({ path }) => {
            const file = path.slice(0, -".js".length);
            return { contents: await readFile(file, "utf8"), resolveDir: dirname(file), loader: "js" };
        });
    },
};

const bundle = await build({
    plugins: [grafana],
    entryPoints: [new URL("page.tsx", import.meta.url).pathname],
    bundle: true,
    write: false,
    outdir: "/",
    format: "iife",
    jsx: "automatic",
    minify: true,
    logLevel: "error",
    define: { "process.env.NODE_ENV": '"production"', global: "globalThis" },
    loader: { ".svg": "dataurl", ".woff": "empty", ".woff2": "empty", ".ttf": "empty" },
});

async function answer(path) {
    if (path === "/") return PAGE;
    const bundled = bundle.outputFiles.find((file) => file.path === path);
    if (bundled) return bundled.text;
    if (path === "/dashboard.json") return readFile(dashboard);
    if (path === "/recorded.json") return readFile(recorded);
    // Grafana's font, from Debian's package fonts-inter.
    if (path.startsWith("/public/fonts/inter/")) return readFile(join(FONTS, basename(path, ".woff2") + ".otf"));
    if (path.startsWith("/public/img/icons/")) return readFile(join(ICONS, path.slice("/public/".length)));
    throw new Error(`nothing is there: ${path}`);
}

const profile = await mkdtemp(join(tmpdir(), "picture-"));
const browser = await chromium.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium",
    headless: true,
    viewport: { width: 1680, height: 1000 },
    colorScheme: "dark",
    args: [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    ],
});
try {
    const page = await browser.newPage();
    page.on("pageerror", (error) => console.error(error.stack));
    page.on("console", (message) => message.type() === "error" && console.error(message.text()));
    await page.route("**/*", async (route) => {
        const path = new URL(route.request().url()).pathname;
        try {
            await route.fulfill({ contentType: TYPES[extname(path)] ?? TYPES[".html"], body: await answer(path) });
        } catch (error) {
            console.error(error.message);
            await route.fulfill({ status: 404 });
        }
    });
    await page.goto(HERE);
    await page.waitForSelector("#dashboard");
    await page.waitForFunction(() => document.querySelectorAll(".uplot").length > 10);
    await page.waitForTimeout(1500);
    const empty = await page.$$eval("[data-empty=true]", (all) => all.map((each) => each.dataset.panel));
    if (empty.length > 0) throw new Error(`empty panels: ${empty.join(", ")}`);
    await page.locator("#dashboard").screenshot({ path: picture });
} finally {
    await browser.close();
    await rm(profile, { recursive: true });
}
