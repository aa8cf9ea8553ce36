"""``python -m training STEP``: one command for each step of the recipe."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from training.codes import VOICES
from training.vocabulary import VOICE


def main() -> None:
    """Parse the step and run it."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(os.environ.get("VOICE_WORK", "build/voice")),
        help="folder of intermediate files (or VOICE_WORK)",
    )
    steps = parser.add_subparsers(dest="step", required=True)
    text = steps.add_parser("text", help="collect sentences; split the held-out set off")
    text.add_argument("--seed", type=int, default=0)
    speech = steps.add_parser("speech", help="have the teacher read them")
    speech.add_argument("--part", type=int, default=0)
    speech.add_argument("--parts", type=int, default=1)
    speech.add_argument("--shards", type=int, help="only the first so many (of 1000 lines each)")
    speech.add_argument("--voice", choices=tuple(VOICES), default=VOICE)
    speech.add_argument("--skip", type=int, default=0, help="leave so many shards to other voices")
    lm = steps.add_parser("lm", help="train the language model (resumes from its checkpoint)")
    lm.add_argument("--minutes", type=float, default=95)
    again = steps.add_parser("restore", help="a checkpoint from the shipped files, to go on from")
    again.add_argument("--what", choices=("lm", "codec"), default="lm")
    refine = steps.add_parser("refine", help="train a language model that reads already on")
    refine.add_argument("--minutes", type=float, default=60)
    codec = steps.add_parser("codec", help="train the codec's decoder (resumes likewise)")
    codec.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    codec.add_argument("--minutes", type=float, help="length of the run (CPU 95, GPU 8)")
    codec.add_argument("--batch", type=int, help="stretches in a step (CPU 6, GPU 48)")
    codec.add_argument(
        "--go-on",
        action="store_true",
        help="with a decoder that speaks already (after restore or widen)",
    )
    codec.add_argument("--no-compile", action="store_true", help="for a run of a few steps")
    voice = steps.add_parser("adapter", help="a second voice: a LoRA adapter on the shipped files")
    voice.add_argument("--name", default="bruno", help="what prompts call it")
    voice.add_argument("--pace", type=float, default=0.85, help="against the teacher's")
    voice.add_argument("--pitch", type=float, default=0.8, help="likewise")
    voice.add_argument("--rank", type=int, default=16)
    voice.add_argument("--minutes", type=float, default=20, help="of processor time")
    voice.add_argument("--shards", type=int, default=6, help="thousands of sentences to learn from")
    voice.add_argument("--base", type=Path, default=Path("orpheus_plugin/mini"))
    voice.add_argument("--to", type=Path, help="default: WORK/NAME/adapter")
    wide = steps.add_parser("widen", help="a wider codec from two, which sounds as the first")
    wide.add_argument("sounds", type=Path, help="folder of the codec that is heard")
    wide.add_argument("other", type=Path, help="folder of the codec whose features lie beside it")
    one = steps.add_parser(
        "distil", help="a codec that sounds as one below a border, as another above"
    )
    one.add_argument("high", type=Path, help="folder of the codec that is heard above")
    one.add_argument("low", type=Path, help="folder of the codec that is heard below")
    one.add_argument("--border", type=float, default=800, help="Hz")
    one.add_argument("--minutes", type=float, default=10, help="of processor time")
    held = steps.add_parser("held-out", help="the benchmark's sentences, read by the teacher")
    held.add_argument("--to", type=Path, default=Path("benchmarks/mini_held_out.json"))
    out = steps.add_parser("export", help="write the voice's folder")
    out.add_argument("--to", type=Path, default=Path("orpheus_plugin/mini"))
    picture = steps.add_parser("picture", help="spectrograms: teacher, a codec before, and after")
    picture.add_argument("--before", type=Path, help="folder of a codec; without: two voices")
    picture.add_argument("--voices", nargs="+", default=["heart", "bruno"])
    picture.add_argument("--after", type=Path, default=Path("orpheus_plugin/mini/snac"))
    picture.add_argument("--text", default="Thanks for calling, how can I help you today?")
    picture.add_argument("--to", type=Path, default=Path("training/spectrograms.jpg"))
    test = steps.add_parser("evaluate", help="word error rate and naturalness of the checkpoints")
    test.add_argument("--what", choices=("teacher", "codec", "lm"), default="lm")
    test.add_argument("--sentences", type=int, default=24)
    test.add_argument("--temperature", type=float, default=0.6)
    test.add_argument("--top-p", type=float, default=0.8)
    test.add_argument("--sounds", type=Path)
    args = parser.parse_args()
    if args.step == "text":
        from training.text import build

        build(args.work, args.seed)
    elif args.step == "speech":
        from training.speech import generate, lines_of

        first = args.voice == VOICE
        generate(
            args.work if first else lines_of(args.work, args.voice, args.skip),
            args.part,
            args.parts,
            args.shards,
            audio_shards=16 if first else 0,
            pace=VOICES[args.voice].pace,
        )
    elif args.step == "codec":
        from training.codec_train import PLANS, go_on
        from training.codec_train import train as train_codec

        plan = PLANS[args.device]
        plan = replace(
            plan,
            minutes=args.minutes or plan.minutes,
            batch=args.batch or plan.batch,
            fused=not args.no_compile,
        )
        if args.go_on:
            plan = go_on(plan)
        train_codec(args.work, plan, args.device)
    elif args.step == "lm":
        from training.lm_train import train

        train(args.work, args.minutes)
    elif args.step == "restore":
        from training.restore import restore

        restore(Path("orpheus_plugin/mini"), args.work, args.what)
    elif args.step == "refine":
        from training.lm_train import train

        train(args.work, args.minutes, fast_until=0, cool_from=0.1, peak=0.3)
    elif args.step == "adapter":
        from training import adapter

        to = args.to or args.work / args.name / "adapter"
        adapter.train(
            args.work,
            args.base,
            to,
            voice=args.name,
            pace=args.pace,
            pitch=args.pitch,
            minutes=args.minutes,
            rank=args.rank,
            shards=args.shards,
        )
        print(adapter.listed(to))
    elif args.step == "widen":
        from training.widen import widen

        widen(args.work, args.sounds, args.other)
    elif args.step == "distil":
        from training.distil import distil

        distil(args.work, args.high, args.low, border_hz=args.border, minutes=args.minutes)
    elif args.step == "held-out":
        from training.evaluate import write_held_out

        write_held_out(args.work, args.to)
    elif args.step == "export":
        from training.export import export

        export(args.work, args.to)
    elif args.step == "picture":
        from training.picture import draw, draw_voices

        if args.before:
            draw(args.text, args.before, args.after, args.to)
        else:
            draw_voices(args.text, args.voices, args.to)
    elif args.step == "evaluate":
        from training.evaluate import evaluate

        evaluate(args.work, args.sentences, args.what, args.temperature, args.top_p, args.sounds)


if __name__ == "__main__":
    main()
