/* libFuzzer target. The first byte chooses: any text through the demo's tokenizer, any bytes as its merges.txt, or any
 * bytes as its vocab.json. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/tokenizer.h"
#include "scratch.h"

#define DEMO TEST_ROOT "/jobs/demo/tokenizer"

/* Two folders: in one vocab.json is the demo's and merges.txt any bytes, in the other it is the other way round. */
static char folder[] = "/tmp/ksweep-fuzz-XXXXXX";
static char with_merges[64], with_vocab[64], path[4][96];
static ks_tokenizer *demo;

static void clean_up(void)
{
    for (int i = 0; i < 4; i++)
        unlink(path[i]);
    rmdir(with_merges);
    rmdir(with_vocab);
    rmdir(folder);
    ks_tokenizer_free(demo);
}

static void prepare(void)
{
    demo = ks_tokenizer_open(DEMO, NULL);
    if (!demo || !mkdtemp(folder))
        abort();
    snprintf(with_merges, sizeof with_merges, "%s/merges", folder);
    snprintf(with_vocab, sizeof with_vocab, "%s/vocab", folder);
    snprintf(path[0], sizeof path[0], "%s/vocab.json", with_merges);
    snprintf(path[1], sizeof path[1], "%s/merges.txt", with_merges);
    snprintf(path[2], sizeof path[2], "%s/vocab.json", with_vocab);
    snprintf(path[3], sizeof path[3], "%s/merges.txt", with_vocab);
    if (mkdir(with_merges, 0700) || mkdir(with_vocab, 0700) || symlink(DEMO "/vocab.json", path[0]) ||
        symlink(DEMO "/merges.txt", path[3]))
        abort();
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

static void open_folder(const char *where, const char *file, const uint8_t *data, size_t size)
{
    FILE *f = fopen(file, "wb");
    if (!f || fwrite(data, 1, size, f) != size)
        abort();
    fclose(f);
    ks_error err = KS_ERROR_NONE;
    ks_tokenizer *t = ks_tokenizer_open(where, &err);
    if (t)
        encode(t, "a red circle, a green square's and 12 aaaaaaaa");
    else if (!err.text[0])
        abort();
    ks_tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!demo)
        prepare();
    if (size == 0)
        return 0;
    if (data[0] % 4 == 1) {
        open_folder(with_merges, path[1], data + 1, size - 1);
    } else if (data[0] % 4 == 3) {
        open_folder(with_vocab, path[2], data + 1, size - 1);
    } else {
        char *text = strndup((const char *)data + 1, size - 1);
        encode(demo, text);
        free(text);
    }
    return 0;
}
