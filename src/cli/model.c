#include <stddef.h>

#include "cli/command.h"

int command_model(const command *self, int argc, char **argv)
{
    static const struct option names[] = {{"help", no_argument, NULL, 'h'}, {0}};
    while (next_option(self, argc, argv, ":h", names) != -1)
        ;
    ks_error err = KS_ERROR_NONE;
    char *text = ks_model_text(only_argument(self, argc, argv, "model file"), &err);
    if (!text)
        return complain("%s", err.text);
    return print_text(text);
}
