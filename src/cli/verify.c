#include <stdio.h>

#include "cli/command.h"

int command_verify(const command *self, int argc, char **argv)
{
    enum { SAMPLE = 1000 };
    static const struct option names[] = {{"sample", required_argument, NULL, SAMPLE},
                                          {"threads", required_argument, NULL, 't'}, {"help", no_argument, NULL, 'h'}, {0}};
    int64_t samples = 0, threads = 0;
    for (int c; (c = next_option(self, argc, argv, ":t:h", names)) != -1;) {
        if (c == 't')
            threads = whole_number("--threads", optarg, 1, 4096);
        else
            samples = whole_number("--sample", optarg, 0, INT64_MAX);
    }
    const char *output = only_argument(self, argc, argv, "output file");
    ks_error err = KS_ERROR_NONE;
    ks_verify_result result;
    if (ks_verify(output, (uint64_t)samples, (int)threads, &result, &err))
        return complain("%s", err.text);
    printf("%llu rows checked, %llu bad\n", (unsigned long long)result.rows, (unsigned long long)result.bad);
    printf("%llu samples: %llu done, %llu failed, %llu missing\n", (unsigned long long)result.samples.samples,
           (unsigned long long)result.samples.done, (unsigned long long)result.samples.failed,
           (unsigned long long)result.samples.missing);
    if (samples)
        printf("%llu samples rendered again, %llu different\n", (unsigned long long)result.rendered,
               (unsigned long long)result.different);
    return result.bad || result.different ? KS_EXIT_SOME_FAILED : KS_EXIT_DONE;
}
