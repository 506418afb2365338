#include <aws/nitro_enclaves/stand_in.h>
