#include <stddef.h>

#include "cli/command.h"

int command_status(const command *self, int argc, char **argv)
{
    enum { CHECK = 1000 };
    static const struct option names[] = {{"check", no_argument, NULL, CHECK}, {"help", no_argument, NULL, 'h'}, {0}};
    bool check = false;
    for (int c; (c = next_option(self, argc, argv, ":h", names)) != -1;)
        check |= c == CHECK;
    ks_error err = KS_ERROR_NONE;
    ks_counts counts;
    char *text = ks_status_text(only_argument(self, argc, argv, "output file"), check, &counts, &err);
    if (!text)
        return complain("%s", err.text);
    print_text(text);
    return counts.missing ? KS_EXIT_RESUMABLE : counts.failed ? KS_EXIT_SOME_FAILED : KS_EXIT_DONE;
}
