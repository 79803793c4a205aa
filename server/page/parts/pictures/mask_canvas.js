/** The painted part of a mask: strokes that can be undone, and the picture that is sent: white is made anew. */

const COLOUR = "#d6366b"; // seen over any picture, in both themes
const MAX_PIXELS = 2 ** 24; // of a canvas on a phone; the server brings a smaller mask to the picture's size

/** A mask for a picture of this size. Points and sizes are fractions of the width. */
export class MaskCanvas {
  #done = []; // functions that draw, in their order
  #context;

  constructor(canvas, width, height) {
    const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    this.canvas = canvas;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
  }

  /** Begins a stroke. Returns a function that goes on to a point. */
  stroke(size, erases) {
    const points = [];
    this.#done.push((context) => line(context, points, size * this.canvas.width, erases));
    return (x, y) => {
      points.push([x * this.canvas.width, y * this.canvas.width]);
      line(this.#context, points.slice(-2), size * this.canvas.width, erases);
    };
  }

  invert() {
    this.#do((context) => fill(context, "source-out")); // what was painted becomes empty, and the rest is painted
  }

  clear() {
    this.#do((context) => context.clearRect(0, 0, context.canvas.width, context.canvas.height));
  }

  /** Paints what is white in a mask. */
  load(image) {
    this.#do((context) => {
      const { width, height } = context.canvas;
      context.drawImage(image, 0, 0, width, height);
      const pixels = context.getImageData(0, 0, width, height);
      for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at];
      context.putImageData(pixels, 0, 0);
      fill(context, "source-in");
    });
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  undo() {
    this.#done.pop();
    this.#context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const draw of this.#done) draw(this.#context);
  }

  /** Whether nothing is painted. */
  get isEmpty() {
    const { data } = this.#context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    for (let at = 3; at < data.length; at += 4) if (data[at]) return false;
    return true;
  }

  /** A PNG that is white where it is painted and black elsewhere. */
  async file() {
    const made = document.createElement("canvas");
    made.width = this.canvas.width;
    made.height = this.canvas.height;
    const context = made.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    fill(context, "source-in", "#fff");
    fill(context, "destination-over", "#000");
    const blob = await new Promise((resolve) => made.toBlob(resolve, "image/png"));
    return new File([blob], "mask.png", { type: "image/png" });
  }

  #do(draw) {
    this.#done.push(draw);
    draw(this.#context);
  }
}

function line(context, points, width, erases) {
  context.globalCompositeOperation = erases ? "destination-out" : "source-over";
  context.strokeStyle = COLOUR;
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...points[0]);
  for (const point of points.length > 1 ? points.slice(1) : points) context.lineTo(...point);
  context.stroke();
  context.globalCompositeOperation = "source-over";
}

function fill(context, operation, colour = COLOUR) {
  context.globalCompositeOperation = operation;
  context.fillStyle = colour;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.globalCompositeOperation = "source-over";
}
