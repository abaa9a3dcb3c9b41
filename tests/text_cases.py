"""A tokenizer of words, saved in a folder."""

WORDS = [f"w{number}" for number in range(30)]


def save_tokenizer(folder, transformers, tokenizers):
    """Write a tokenizer of WORDS; [PAD] is 0, unknown words are 1, and WORDS are 2 to 31."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    made.save_pretrained(folder)
    return str(folder)
