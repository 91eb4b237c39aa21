/* Stands where libedgetpu.so.1 would: a delegate that takes no op. FAKE_TPU says how it behaves:
   "absent": no device is plugged in; "other": the model was compiled for another runtime; else all is well. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct Delegate {
  void *data;
  int (*prepare)(void *context, struct Delegate *delegate);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *builder;
} Delegate;

static const char *mode(void) { const char *m = getenv("FAKE_TPU"); return m ? m : ""; }

static int prepare(void *context, Delegate *delegate) {
  (void)context, (void)delegate;
  return strcmp(mode(), "other") ? 0 : 1;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*say)(const char *)) {
  (void)keys, (void)values, (void)count;
  if (!strcmp(mode(), "absent")) {
    if (say) say("no device");
    return NULL;
  }
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = prepare;
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
