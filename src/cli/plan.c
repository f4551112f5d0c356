#include <stdlib.h>

#include "cli/command.h"

int command_plan(const command *self, int argc, char **argv)
{
    enum { SET = 1000, FILTER, SHARD };
    static const struct option names[] = {{"output", required_argument, NULL, 'o'}, {"set", required_argument, NULL, SET},
                                          {"filter", required_argument, NULL, FILTER},
                                          {"shard", required_argument, NULL, SHARD}, {"help", no_argument, NULL, 'h'}, {0}};
    source_options s = {0};
    ks_run_options options = {0};
    const char **filters = calloc((size_t)argc, sizeof *filters);
    if (!filters)
        exit(complain("out of memory"));
    for (int c; (c = next_option(self, argc, argv, ":o:h", names)) != -1;) {
        if (c == 'o')
            s.source.output = optarg;
        else if (c == FILTER)
            filters[options.filter_count++] = optarg;
        else if (c == SHARD)
            options.shard = optarg;
        else
            source_add_set(&s, optarg);
    }
    s.source.path = only_argument(self, argc, argv, "job file");
    options.job = s.source;
    options.filters = filters;
    ks_error err = KS_ERROR_NONE;
    char *text = ks_plan(&options, &err);
    free(s.sets);
    free(filters);
    if (!text)
        return complain("%s", err.text);
    return print_text(text);
}
