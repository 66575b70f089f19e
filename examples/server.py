"""A server with one model for any number of clients.

    pip install fastapi uvicorn websockets
    python examples/server.py BUNDLE --port 8000
    curl --data-binary @speech.wav http://127.0.0.1:8000/predict

`POST /predict` takes an audio file and gives arousal, dominance and valence. The WebSocket
`/stream?rate=16000` takes blocks of 16-bit mono PCM of any size and gives one line of JSON per
block that completed an estimate.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect

from wav2small import Predictor, Stream, Wav2SmallError
from wav2small.dimensions import DIMENSIONS

MAX_BYTES = 100_000_000  # of a file


def application(bundle: str) -> FastAPI:
    """The server of a bundle: one session of ONNX Runtime, a small state per client."""
    predictor = Predictor(bundle)
    app = FastAPI(title="wav2small")

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, float]:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BYTES:
                raise HTTPException(413, f"at most {MAX_BYTES:,} bytes")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "audio")
            file.write_bytes(body)
            try:
                values = await asyncio.to_thread(predictor.predict_file, file)
            except Wav2SmallError as error:
                raise HTTPException(422, str(error).replace(str(file), "the file")) from error
        return dict(zip(DIMENSIONS, map(float, values), strict=True))

    @app.websocket("/stream")
    async def stream(socket: WebSocket, rate: int = 16000) -> None:
        await socket.accept()
        past = Stream(predictor)
        with suppress(WebSocketDisconnect):
            while True:
                try:
                    block = await socket.receive_bytes()
                except KeyError:
                    await socket.close(1003, "text: give 16-bit mono PCM as bytes")
                    return
                try:
                    samples = np.frombuffer(block, "<i2")
                    estimates = await asyncio.to_thread(past.push, samples, sampling_rate=rate)
                except (ValueError, Wav2SmallError) as error:  # half a sample, an impossible rate
                    await socket.close(1003, str(error)[:120])
                    return
                if estimates:
                    await socket.send_json(asdict(estimates[-1]))

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    try:
        app = application(args.bundle)
    except Wav2SmallError as error:
        parser.exit(2, f"{error}\n")
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
