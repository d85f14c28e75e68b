import { render } from "preact";
import "@preact/signals";
import { watchEngine } from "./live-engine";
import { loadModels } from "./state";
import { App } from "./ui/app";
import "./styles/base.css";
import "./styles/frame.css";
import "./styles/chat.css";
import "./styles/prose.css";
import "./styles/pages.css";

const root = document.getElementById("app");
if (root) render(<App />, root);
void loadModels();
watchEngine();
