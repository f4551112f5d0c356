/* libFuzzer target. The first byte chooses: any text through the demo's tokenizer (the environment
 * variable KS_TOKENIZER names its folder), or any bytes as its merges.txt.
 *
 * Build: clang -g -O1 -std=c17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -Iinclude
 *        tests/fuzz/fuzz_tokenizer.c src/model/tokenizer.c src/model/clip_text.c
 *        src/base/[a-z]*.c -lutf8proc -lcjson -lxxhash -lcrypto -lpthread -lm */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/tokenizer.h"

static char folder[] = "/tmp/ksweep-fuzz-XXXXXX";
static char merges[sizeof folder + 16], vocab[sizeof folder + 16];
static ks_tokenizer *demo;

static void clean_up(void)
{
    unlink(merges);
    unlink(vocab);
    rmdir(folder);
    ks_tokenizer_free(demo);
}

static void prepare(void)
{
    char path[4096];
    const char *where = getenv("KS_TOKENIZER");
    ks_error err;
    demo = where ? ks_tokenizer_open(where, &err) : NULL;
    if (!demo || !mkdtemp(folder))
        abort();
    char *full = realpath(where, NULL);
    snprintf(path, sizeof path, "%s/vocab.json", full);
    snprintf(vocab, sizeof vocab, "%s/vocab.json", folder);
    snprintf(merges, sizeof merges, "%s/merges.txt", folder);
    if (symlink(path, vocab) != 0)
        abort();
    free(full);
    atexit(clean_up);
}

static void encode(const ks_tokenizer *t, const char *text)
{
    int32_t *ids;
    int count;
    if (ks_tokenizer_encode(t, text, &ids, &count, NULL) != 0)
        return;
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= ks_tokenizer_vocab(t))
            abort();
    free(ids);
}

static void open_merges(const uint8_t *data, size_t size)
{
    FILE *f = fopen(merges, "wb");
    if (!f || fwrite(data, 1, size, f) != size)
        abort();
    fclose(f);
    ks_tokenizer *t = ks_tokenizer_open(folder, NULL);
    if (t)
        encode(t, "a red circle, a green square's and 12 aaaaaaaa");
    ks_tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!demo)
        prepare();
    if (size == 0)
        return 0;
    if (data[0] % 2) {
        open_merges(data + 1, size - 1);
        return 0;
    }
    char *text = strndup((const char *)data + 1, size - 1);
    encode(demo, text);
    free(text);
    return 0;
}
