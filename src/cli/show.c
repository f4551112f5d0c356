#include <stddef.h>

#include "cli/command.h"

int command_show(const command *self, int argc, char **argv)
{
    static const struct option names[] = {{"help", no_argument, NULL, 'h'}, {0}};
    while (next_option(self, argc, argv, ":h", names) != -1)
        ;
    if (argc - optind != 2)
        return complain("%s: an output file and the number of a row are wanted; usage: ksweep %s "
                        "%s", self->name, self->name, self->arguments);
    uint64_t row = (uint64_t)whole_number("ROW", argv[optind + 1], 0, INT64_MAX);
    ks_error err = KS_ERROR_NONE;
    char *text = ks_show(argv[optind], row, &err);
    if (!text)
        return complain("%s", err.text);
    return print_text(text);
}
