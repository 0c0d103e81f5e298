"""The statements of ``raw`` in a view of the Pyramid application.

What the driver costs where its code is not alone in the processor's caches;
the cost is what they add to the same application without them.
"""

from pyramid.response import Response

from benchmarks.systems import raw
from benchmarks.systems.pyramid_app import configurator
from benchmarks.wsgi import Client


def make(url):
    calls = raw.make(url)
    config = configurator({'tm.manager_hook': 'pyramid_tm.explicit_manager'})
    config.include('pyramid_tm')

    def add(name, call):
        def view(request):
            call()
            return Response('done')

        config.add_route(f'raw_{name}', f'/raw_{name}')
        config.add_view(view, route_name=f'raw_{name}')

    for name, call in calls.items():
        add(name, call)
    client = Client(config.make_wsgi_app())
    return {
        name: lambda path=f'/raw_{name}': client.get(path) for name in calls
    }
