// The camera: opens and reopens it, and delivers its frames.

const RETRY_MS = 2000; // before a failed camera is opened again
const SILENT_MS = 500; // after which `arrival` returns without a frame

export class Camera {
  // video: element that plays the camera. isWanted: whether the page shows the camera now. onOpened, onFault(code, text),
  // onLost: called when it opens, when it cannot be opened, and when it is disconnected.
  constructor(video, {isWanted, onOpened, onFault, onLost}) {
    Object.assign(this, {video, isWanted, onOpened, onFault, onLost});
    this.stream = this.wakeLock = null;
    this.devices = [];
    this.index = 0; // of the open one in `devices`
    this.openedAt = 0;
    this.isOpening = this.isRequested = false;
    this.wake = () => {};
    this.lost = () => {
      this.close();
      this.onLost();
      this.retry();
    };
    this.nextFrame = video.requestVideoFrameCallback?.bind(video) ?? (done => setTimeout(done, 33));
    setInterval(() => this.wake(false), SILENT_MS);
  }

  async open() {
    if (this.isOpening || document.hidden) return;
    this.isOpening = true;
    this.close();
    try {
      if (!window.isSecureContext || !navigator.mediaDevices) return this.onFault("insecure", location.href);
      const size = {width: {ideal: 1280}, height: {ideal: 720}};
      const device = this.devices[this.index % this.devices.length];
      const which = device ? {deviceId: {exact: device.deviceId}} : {facingMode: "environment"};
      try {
        this.stream = await navigator.mediaDevices.getUserMedia({video: {...which, ...size}, audio: false});
      } catch (error) {
        if (error.name !== "OverconstrainedError") throw error;
        this.devices = []; // that camera is gone, or the browser rejects the size: take any camera
        this.stream = await navigator.mediaDevices.getUserMedia({video: true, audio: false});
      }
      if (document.hidden || !this.isWanted()) return this.close(); // the page changed meanwhile
      const [track] = this.stream.getVideoTracks();
      track.addEventListener("ended", this.lost);
      this.video.srcObject = this.stream;
      this.devices = (await navigator.mediaDevices.enumerateDevices()).filter(d => d.kind === "videoinput" && d.deviceId);
      this.index = Math.max(0, this.devices.findIndex(d => d.deviceId === track.getSettings().deviceId));
      this.openedAt = performance.now();
      this.onOpened({hasOthers: this.devices.length > 1, hasLight: !!track.getCapabilities?.().torch});
      this.wakeLock = await navigator.wakeLock?.request("screen").catch(() => null); // the phone must not fall asleep
    } catch (error) {
      this.onFault(error.name, error.message);
      if (error.name !== "NotAllowedError") this.retry();
    } finally {
      this.isOpening = false;
    }
  }

  close() {
    for (const track of this.stream?.getTracks() ?? []) {
      track.removeEventListener("ended", this.lost);
      track.stop();
    }
    this.stream = null;
    this.wakeLock?.release();
    this.wakeLock = null;
  }

  retry() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.stream || !this.isWanted() || this.open(), RETRY_MS);
  }

  openNext() {
    this.index++;
    return this.open();
  }

  setLight(isOn) {
    return this.stream.getVideoTracks()[0].applyConstraints({advanced: [{torch: isOn}]});
  }

  // True at the next frame; false after half a second at most, so that a frozen camera cannot stop the page's loop.
  arrival() {
    return new Promise(done => {
      this.wake = done;
      if (this.isRequested) return;
      this.isRequested = true;
      this.nextFrame(() => {
        this.isRequested = false;
        this.wake(true);
      });
    });
  }

  // The frame in memory, unless it would have to be rotated or scaled first; then a bitmap, which is a correct copy.
  async grab() {
    if (window.VideoFrame) {
      const frame = new VideoFrame(this.video), {videoWidth, videoHeight} = this.video;
      const {visibleRect: r, displayWidth: w, displayHeight: h, rotation = 0, flip = false} = frame;
      if (r && r.width === w && r.height === h && w === videoWidth && h === videoHeight && !rotation && !flip) return frame;
      frame.close();
    }
    return createImageBitmap(this.video);
  }
}
