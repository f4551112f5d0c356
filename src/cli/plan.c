#include <stdio.h>
#include <stdlib.h>

#include "cli/command.h"

int command_plan(const command *self, int argc, char **argv)
{
    enum { SET = 1000 };
    static const struct option names[] = {{"output", required_argument, NULL, 'o'}, {"set", required_argument, NULL, SET},
                                          {"help", no_argument, NULL, 'h'}, {0}};
    source_options s = {0};
    for (int c; (c = next_option(self, argc, argv, ":o:h", names)) != -1;) {
        if (c == 'o')
            s.source.output = optarg;
        else
            source_add_set(&s, optarg);
    }
    s.source.path = only_argument(self, argc, argv, "job file");
    ks_error err = KS_ERROR_NONE;
    char *text = ks_plan(&s.source, &err);
    free(s.sets);
    if (!text)
        return complain("%s", err.text);
    fputs(text, stdout);
    free(text);
    return KS_EXIT_DONE;
}
