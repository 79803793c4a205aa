/** Takes files that are dropped on an element, or pasted while the view is shown. */

/** `add(files, name)`: `name` is that of the place they were dropped on, or undefined. */
export function takeFiles(element, add, signal) {
  let over = 0; // nested elements that the pointer has entered
  const has = (event) => event.dataTransfer?.types.includes("Files");
  const placeAt = (event) => event.target.closest?.("[data-slot]")?.dataset.slot;

  function mark(event) {
    const place = event && event.target.closest?.("[data-slot]");
    for (const other of element.querySelectorAll(".target")) if (other !== place) other.classList.remove("target");
    place?.classList.add("target");
    element.classList.toggle("dropping", over > 0);
  }

  element.addEventListener("dragenter", (event) => {
    if (!has(event)) return;
    over += 1;
    mark(event);
  });
  element.addEventListener("dragleave", (event) => {
    if (!has(event)) return;
    over -= 1;
    mark(over > 0 ? event : null);
  });
  element.addEventListener("dragover", (event) => has(event) && mark(event));
  element.addEventListener("drop", (event) => {
    over = 0;
    mark(null);
    if (has(event)) add([...event.dataTransfer.files], placeAt(event));
  });
  // A file that is dropped beside the form must not replace the page.
  for (const type of ["dragover", "drop"])
    document.addEventListener(type, (event) => has(event) && event.preventDefault(), { signal });
  document.addEventListener(
    "paste",
    (event) => {
      const files = [...event.clipboardData.files].filter(({ type }) => /^(image|video)\//.test(type));
      if (!files.length || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      add(files);
    },
    { signal },
  );
}
