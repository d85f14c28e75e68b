import type { ComponentChildren } from "preact";
import { drawerOpen } from "../state";
import { IconButton } from "./controls";

/** The head of a page that is not a conversation. */
export function PageBar({ title, note, children }: { title: string; note?: ComponentChildren; children?: ComponentChildren }) {
  return (
    <header class="bar">
      <IconButton icon="menu" label="Menu" class="only-narrow" onClick={() => (drawerOpen.value = true)} />
      <h1>{title}</h1>
      {note && <span class="note">{note}</span>}
      <span class="spacer" />
      {children}
    </header>
  );
}
