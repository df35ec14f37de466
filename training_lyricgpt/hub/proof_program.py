"""Loads a published model as a stranger would, and prints what it computes. `proof` runs this file as a program, with `-I`.

python -I proof_program.py SOURCE REVISION trust|"" TEXT
"""

import json
import sys
import traceback


def main(source: str, revision: str, trust: str, text: str) -> None:
    for name in ("modeling_lyricgpt", "tokenization_lyricgpt", "training_lyricgpt", "train_hf"):
        sys.modules[name] = None  # importing this project fails from here on, installed or not
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    options = {"trust_remote_code": trust == "trust", **({"revision": revision} if revision else {})}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, **options).eval()
        ids = tokenizer(text, return_tensors="pt", split_special_tokens=True).input_ids
        with torch.no_grad():
            logits = model(ids).logits[0, -1].tolist()
        write = pipeline("text-generation", model=source, **options)
        song = write("", max_new_tokens=min(60, model.config.max_position_embeddings // 2))[0]["generated_text"]
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")  # `proof` shows this last line
    print(json.dumps({"ids": ids[0].tolist(), "logits": logits, "song": song}))


if __name__ == "__main__":
    main(*sys.argv[1:])
