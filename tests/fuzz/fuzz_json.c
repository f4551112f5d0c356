/* libFuzzer target: any bytes as a JSON document. What parses must print, and what was printed must
 * parse and print the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "scratch.h"

/* Asks every question of every value. */
static void ask(ks_json v)
{
    static const char *const allowed[] = {"seed", "steps", NULL};
    ks_error err;
    double real;
    int64_t whole;
    uint64_t natural;
    bool flag;
    const char *text;
    ks_json_double(v, &real, &err);
    ks_json_int(v, -5, 5, &whole, &err);
    ks_json_u64(v, &natural, &err);
    ks_json_bool(v, &flag, &err);
    ks_json_string(v, &text, &err);
    ks_json_only(v, allowed, &err);
    for (int i = 0; i < ks_json_size(v); i++)
        ask(ks_json_is_array(v) ? ks_json_at(v, i) : ks_json_member(v, i, &text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ks_json_doc *doc = ks_json_parse("f", (const char *)data, size, NULL);
    if (!doc)
        return 0;
    ask(ks_json_root(doc));
    char *text = ks_json_print(ks_json_root(doc));
    ks_json_doc *again = ks_json_parse("g", text, strlen(text), NULL);
    char *same = again ? ks_json_print(ks_json_root(again)) : NULL;
    if (!same || strcmp(text, same) != 0)
        abort();
    free(same);
    free(text);
    ks_json_free(again);
    ks_json_free(doc);
    return 0;
}
