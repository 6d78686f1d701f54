#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>

clipc_status clipc_fail(clipc_message *message, clipc_status status, const char *format, ...)
{
    if (message != NULL) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message->text, sizeof message->text, format, arguments);
        va_end(arguments);
    }
    return status;
}

clipc_status clipc_fail_memory(clipc_message *message, unsigned long long bytes)
{
    return clipc_fail(message, CLIPC_ERROR_MEMORY, "out of memory: %llu bytes could not be allocated", bytes);
}
