import { render } from "preact";
import "./style/base.css";
import "./style/layout.css";
import "./style/reading.css";
import "./style/windows.css";
import "./style/desk.css";
import "./style/latents.css";
import { App } from "./view/App";

const page = document.getElementById("page");
if (page) render(<App />, page);
